"""What a run is worth, as tables, plots and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_slim.lazy import face

if TYPE_CHECKING:
    from yolo_slim.reporting.classes import ClassRow as ClassRow
    from yolo_slim.reporting.classes import class_changes as class_changes
    from yolo_slim.reporting.classes import class_changes_markdown as class_changes_markdown
    from yolo_slim.reporting.classes import class_changes_table as class_changes_table
    from yolo_slim.reporting.classes import classes_table as classes_table
    from yolo_slim.reporting.comparison import ModelRow as ModelRow
    from yolo_slim.reporting.comparison import comparison_markdown as comparison_markdown
    from yolo_slim.reporting.comparison import comparison_table as comparison_table
    from yolo_slim.reporting.html import write_report as write_report
    from yolo_slim.reporting.plots import gamma_histograms as gamma_histograms
    from yolo_slim.reporting.plots import rounds_plot as rounds_plot
    from yolo_slim.reporting.plots import training_curves as training_curves
    from yolo_slim.reporting.sensitivity import heat_map as heat_map
    from yolo_slim.reporting.sensitivity import sensitivity_markdown as sensitivity_markdown
    from yolo_slim.reporting.tables import ExportRow as ExportRow
    from yolo_slim.reporting.tables import StateRow as StateRow
    from yolo_slim.reporting.tables import classes_by_state as classes_by_state
    from yolo_slim.reporting.tables import exports_markdown as exports_markdown
    from yolo_slim.reporting.tables import exports_table as exports_table
    from yolo_slim.reporting.tables import layers_table as layers_table
    from yolo_slim.reporting.tables import runtimes_markdown as runtimes_markdown
    from yolo_slim.reporting.tables import runtimes_table as runtimes_table
    from yolo_slim.reporting.tables import states_markdown as states_markdown
    from yolo_slim.reporting.tables import states_table as states_table
    from yolo_slim.reporting.trade_offs import draw_trade_offs as draw_trade_offs

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "classes": "ClassRow class_changes class_changes_markdown class_changes_table classes_table",
        "comparison": "ModelRow comparison_markdown comparison_table",
        "html": "write_report",
        "plots": "gamma_histograms rounds_plot training_curves",
        "sensitivity": "heat_map sensitivity_markdown",
        "tables": "ExportRow StateRow classes_by_state exports_markdown exports_table layers_table runtimes_markdown "
        "runtimes_table states_markdown states_table",
        "trade_offs": "draw_trade_offs",
    },
)
