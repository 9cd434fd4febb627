"""The networks, as plain ``nn.Module``s with the published state-dict names."""
