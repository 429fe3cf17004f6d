"""MMDetection's MobileNetV2 with four maps."""

backbone = dict(_delete_=True, type="MobileNetV2", out_indices=(1, 2, 4, 6))
channels = [24, 32, 96, 320]
find_unused_parameters = True  # of its last convolution, which no map needs
