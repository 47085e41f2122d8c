"""Studies: many trainings that differ in few settings, and the tables and figures that compare them."""
