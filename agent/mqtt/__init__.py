"""The MQTT front: requests in, frames out, over one broker that may vanish at any time."""
