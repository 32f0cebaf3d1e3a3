"""REST and live routes, one module for each noun."""
