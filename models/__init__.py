"""Everything that learns: NPsSegNet, its training and its evaluation."""
