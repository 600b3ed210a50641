"""Other people's tools: training frameworks that call surefoot, dashboards that show its numbers.

One file a library, which is imported when it is first used and never before. `surefoot` itself
needs none of them.
"""
