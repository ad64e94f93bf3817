"""What Python programs call: `tfhalf` itself imports these names, each when it is first used."""
