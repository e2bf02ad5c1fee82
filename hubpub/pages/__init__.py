"""HTML pages with escaped values, for the report and for the embedded Hub."""
