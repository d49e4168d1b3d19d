"""What a run is worth, as tables, plots and a page."""
