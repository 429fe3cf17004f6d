"""The report as one HTML page that needs nothing else."""

from jinja2 import Environment

from lab.report.collect import TableReport
from lab.report.plots import accuracy_plot, convergence_plot
from lab.report.render import (
    DELTA_COLUMNS,
    LEGEND,
    MINI,
    cells,
    columns,
    command_lines,
    delta_cells,
    summary,
)
from mmdualtoken.export.measure import quiet

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2430; background: #fff;
  max-width: 84rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.8rem 0 .3rem; }
.setting, figcaption, .remark { color: #556070; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .88rem; }
th { text-align: left; border-bottom: 2px solid #1c2430; white-space: nowrap; }
th, td { padding: .35rem .7rem; vertical-align: top; }
td { border-bottom: 1px solid #dde2e8; }
td span { display: block; } td span + span { color: #556070; font-size: .92em; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.off td { background: #fdecea; }
.notice { border-left: 4px solid #c77700; background: #fff6e5; padding: .7rem 1rem; }
.bad { border-left: 4px solid #b3261e; background: #fdecea; padding: .7rem 1rem; }
.bad ul { margin: 0; }
nav a { margin-right: 1rem; } figure { margin: 1.2rem 0; } img { max-width: 100%; }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; font-size: .82rem; }
summary { cursor: pointer; }
</style>
<h1>{{ title }}</h1>
{% if mini %}<p class="notice"><strong>{{ mini }}</strong></p>{% endif %}
<p>{{ summary }}</p>
{% if failed %}<div class="bad"><ul>{% for line in failed %}<li>{{ line }}</li>{% endfor %}</ul>
</div>{% endif %}
<p class="remark">{{ legend }}</p>
<nav>{% for t in tables %}<a href="#table{{ t.number }}">Table {{ t.number }}</a>{% endfor %}</nav>
{% macro grid(columns, rows) %}
<div class="scroll"><table>
<tr>{% for c in columns %}<th{% if loop.index0 in (1, 2) and columns|length == 7 %} class="number"
{%- endif %}>{{ c }}</th>{% endfor %}</tr>
{% for row in rows %}<tr{% if row.off %} class="off"{% endif %}>
{%- for cell in row.cells %}<td
{%- if loop.index0 in (1, 2) and columns|length == 7 %} class="number"{% endif %}>
{%- for line in cell %}<span>{{ line }}</span>{% endfor %}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endmacro %}
{% for t in tables %}
<section id="table{{ t.number }}">
<h2>Table {{ t.number }}. {{ t.title }}</h2>
<p class="setting">{{ t.setting }}. {{ t.remark }}</p>
{{ grid(columns, t.rows) }}
{% if t.deltas %}<h3>Differences, not checked</h3>{{ grid(delta_columns, t.deltas) }}{% endif %}
<figure><img alt="{{ t.accuracy.caption }}" src="{{ t.accuracy.source }}">
<figcaption>{{ t.accuracy.caption }}</figcaption></figure>
{% if t.convergence %}<figure><img alt="Convergence" src="{{ t.convergence.source }}">
<figcaption>{{ t.convergence.caption }}</figcaption></figure>
{% else %}<p class="remark">No convergence curves: no row of this table has been run.</p>{% endif %}
<details><summary>Commands</summary>
<pre>{% for label, train, test in t.commands %}# {{ label }}
{{ train }}
{{ test }}
{% endfor %}</pre></details>
</section>
{% endfor %}
</html>
"""


def _table(report: TableReport, mini: bool) -> dict:
    """What the template needs of a table."""
    table = report.table
    return dict(
        number=table.number,
        title=table.title,
        setting=table.setting,
        remark=table.remark,
        rows=[
            dict(
                cells=cells(row, table.metrics),
                off=bool(row.error) or not all(check.ok for check in row.checks),
            )
            for row in report.rows
        ],
        deltas=[dict(cells=delta_cells(d, table.metrics)) for d in report.deltas],
        accuracy=accuracy_plot(report, mini),
        convergence=convergence_plot(report),
        commands=command_lines(report),
    )


def html(reports: list[TableReport], mini: bool = False) -> str:
    """The report as one HTML page, plots included.

    Args:
        reports: the tables.
        mini: whether the runs were on mini data, which the page then says first.
    """
    with quiet():
        tables = [_table(report, mini) for report in reports]
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(PAGE)
        .render(
            title="Mini data: not the paper's figures" if mini else "The paper's tables, measured",
            mini=MINI if mini else "",
            summary=summary(reports),
            failed=[line for report in reports for line in report.failed],
            legend=LEGEND,
            columns=columns(mini),
            delta_columns=DELTA_COLUMNS,
            tables=tables,
        )
    )
