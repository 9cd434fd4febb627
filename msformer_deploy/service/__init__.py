"""The segmenter as a web service: requests in, tensors and pictures out, within limits that hold under any load."""
