"""The pictures of a comparison's page, as SVG written element by element.

Written here and not by matplotlib: colours are the page's own variables, so that a picture follows light, dark and
print; text stays text in the reader's font; two runs give the same bytes; and it needs no library and little space.
"""
