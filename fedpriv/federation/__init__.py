"""Federation: clients, their data and how they train."""
