"""What a network costs: any nn.Module."""
