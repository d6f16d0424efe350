"""What stays legible in one figure. Apart from `figure`, so that admission need not load matplotlib."""

MOST_ALONG_AXIS = 60
MOST_SERIES = 8
