"""Layer-wise calibration: layers and their input groups, streams of hidden states, and the durable work folder."""
