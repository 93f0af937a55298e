"""Pictures and their manifest become numbers with n and a 95 % interval, and a report that people read.

Place on the path of data: steps 7 and 8. This room sees pictures and rows, never models.
"""
