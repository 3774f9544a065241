"""What enters a method: views, crops, pixels, features, batches."""
