module docker-machine

go 1.19

require vmdisk v0.0.0

// In a driver the client is a folder of its own, and the import is that folder's path.
replace vmdisk => ../go
