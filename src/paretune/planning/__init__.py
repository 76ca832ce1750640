"""What work costs: shapes, devices, cost, lengths, calibrate, work."""
