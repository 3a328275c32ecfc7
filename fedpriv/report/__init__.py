"""Reports: results as one self-contained HTML page."""

from __future__ import annotations

from fedpriv.report.page import Figure, Report, Section, Table

__all__ = ["Figure", "Report", "Section", "Table"]
