"""What lies on disk: bundles, codes files and folders of results."""
