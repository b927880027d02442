"""The lasting table and its stores."""
