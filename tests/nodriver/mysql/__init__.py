raise ImportError("No module named mysql.connector")
