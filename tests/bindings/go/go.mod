module checker

go 1.19

require netserver v0.0.0

replace netserver => ../../../bindings/go
