"""The read-only page for people: `enrollgate web`.

    server      who may ask, what every response carries, and what an error looks like
    pages       each page: what it reads from the database, and its template
    charts      the geometry of the plots; templates/charts.html draws them as SVG
    formats     how numbers, times and addresses are written
    log_tail    the end of a local run's log
    templates/  HTML; everything is escaped
    static/     the style sheet, the script that keeps a page up to date, and the icon

The server only reads, and answers GET and HEAD. A page works without its script, which fetches the
same page again and exchanges what has changed.
"""
