"""The shallow relatives that networks are measured against."""
