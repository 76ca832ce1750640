"""What work costs: shapes, scorer_shapes, devices, cost, memory, lengths, calibrate, work."""
