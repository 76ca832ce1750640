"""What work costs: shapes, devices, cost, memory, lengths, calibrate, work."""
