"""Pure tensor functions: cosines, thresholds, and the greedy engines that methods share. Imports torch and no model."""
