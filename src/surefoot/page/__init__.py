"""The local web page: what the report shows, live, for all runs of a folder, and the lab.

One file a view, named by what it shows; `app.py` has their addresses. Pages are made on the server
and complete without a script; the scripts draw the figures and keep a live run up to date.
"""
