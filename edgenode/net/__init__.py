"""asyncio, gRPC and mDNS: moves messages; knows nothing of mixing or training."""
