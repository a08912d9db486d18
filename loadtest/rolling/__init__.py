"""What a rolling restart needs: services that come and go, callers who go on asking, a balancer between them."""
