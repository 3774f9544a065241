"""What is measured: metrics, classification, retrieval, protocols, calibration."""
