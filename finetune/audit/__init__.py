"""What is wrong with a data set: copies, leaks, labels, outliers; looks at images, never changes them."""
