"""Pure tensor functions: cosines, thresholds, and the greedy engines that methods share. They know no model."""
