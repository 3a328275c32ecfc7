"""Acts of malicious servers on images and features, and the attacks that read what they bring."""
