"""What a run says to people: page, tables, compatible JSON, files for mergekit and exllamav3.

Everything is made from the run directory alone, at any time; nothing here measures, and nothing is fetched.
"""
