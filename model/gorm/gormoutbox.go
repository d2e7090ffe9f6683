// Package gormoutbox publishes GORM models when they are saved.
package gormoutbox
