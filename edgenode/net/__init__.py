"""gRPC, HTTP and mDNS on asyncio. Moves messages, and knows nothing of mixing or training."""
