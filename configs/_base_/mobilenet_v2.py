"""MMDetection's MobileNetV2 with four maps."""

mobilenet_v2 = dict(_delete_=True, type="MobileNetV2", out_indices=(1, 2, 4, 6))
mobilenet_v2_channels = [24, 32, 96, 320]
