"""HTML pages whose every value is escaped; shared by the report and by the pages of the embedded Hub."""
