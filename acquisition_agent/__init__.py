"""The acquisition agent: runs on the microscope PC."""
