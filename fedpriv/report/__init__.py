"""Reports: results as one HTML page, and the manifest of what lies beside it."""

from __future__ import annotations

from fedpriv.report.page import Figure, Report, Section, Table

__all__ = ["Figure", "Report", "Section", "Table"]
