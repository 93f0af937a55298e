"""The adapter: user vectors steer a frozen UNet. It sees tensors, never people."""
