"""What the quantizer's GPU kernels should take, on paper: by machine code, occupancy, waves and published peaks."""
