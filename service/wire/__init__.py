"""What goes over the wire: shapes of requests and answers, bodies parsed in pieces, whose slice of work comes next.

No HTTP and no models here.
"""
