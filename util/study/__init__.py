"""Studies: many trainings that differ in few settings, and the tables and plots that compare them."""
