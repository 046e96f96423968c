"""Planning: from a pipeline, a dataset and a budget to blocks, stages and a predicted peak."""
