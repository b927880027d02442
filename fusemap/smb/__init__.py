"""A Samba share on top of a mount: are the file ids that its clients see the numbers of the tree?

  address   where a share is
  share     a connection to it: what directories list, and ids by opening files; over smbprotocol (extra smb)
  columns   a row for every file, a column for each way of asking which file it is
  verdict   what is wrong with the rows, and why

It uses the 9P client of p9; what it knows of the machine's own files, it is handed.
"""
