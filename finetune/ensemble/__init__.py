"""Finished runs put together: their answers averaged, their weights averaged, and bags of one recipe."""
