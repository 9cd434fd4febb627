"""What a run leaves behind: files, report and gallery."""
