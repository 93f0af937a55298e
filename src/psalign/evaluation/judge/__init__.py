"""A vision-language model judges pictures, one by one or two beside each other."""
