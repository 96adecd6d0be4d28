module vmdisk

go 1.19
